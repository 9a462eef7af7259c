"""Says what is installed and whether training can work here."""
