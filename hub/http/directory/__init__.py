"""The public directory: every listed integration, and what it receives. The only package that imports jinja2."""
