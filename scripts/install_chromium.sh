#!/bin/sh
# Install Debian's Chromium, through which some tests look, where that can be done from here. Where
# not, those tests say what to do, and fail.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian's chromium package ..."
  apt-get update -qq
  if DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; then
    exit 0
  fi
fi
echo "Some tests need Chromium: install it (on Debian: apt-get install chromium), or set CHROMIUM to its path." >&2
