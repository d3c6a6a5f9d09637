"""Tags to where other programs read them: tables, annotation files, tars, sidecars; and taking them back."""
