"""Files of published models: where they are, how they come here, and what makes them trustworthy."""
