"""The kinds of fault of ``chaos.py``: each module has a ``run``, for the parent, and a ``work``, for its worker."""
