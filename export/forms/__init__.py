"""What writes each form of the loss graph: a module with a function ``build``, named in ``zoedge/forms.py``."""
