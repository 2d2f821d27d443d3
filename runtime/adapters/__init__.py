"""What stands beside frozen matrices: how each kind of adapter is merged and written."""
