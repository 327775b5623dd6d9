"""What is measured on an accelerator: an ordered list of small steps within given minutes."""
