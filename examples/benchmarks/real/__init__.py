"""What ``real_models.py`` asks, and what stands between it and a server: questions made from templates, and a proxy."""
