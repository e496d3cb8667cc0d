"""What a person sees: a real JupyterLab with a real kernel, and reports, in headless Chromium."""
