"""What a person touches in JupyterLab, and the report that leaves it."""
