"""What a shell runs beside ``check``, ``record`` and ``replay``."""
