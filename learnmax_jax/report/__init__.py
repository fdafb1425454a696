"""One page of HTML that shows a run: curves, pictures, codes, positions, film, config; it opens without a network."""
