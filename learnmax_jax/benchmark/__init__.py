"""Where speed is argued: what the parts cost, what the machine could do, and how both grow."""
