"""What `unils-train eval` is made of: models that generate, clips to compare with, plots and the report."""
