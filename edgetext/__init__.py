"""edgetext: distil a large text generator into one a device can run."""

__version__ = "0.1.0"
