"""One plugin of each kind for fusery.  Each module is imported only when what it adds is asked for."""
