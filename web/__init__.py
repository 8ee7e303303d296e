"""The registry in a browser and over HTTP: pages without scripts or foreign content, which are JSON for programs."""
