"""The registry in a browser and over HTTP: a second face beside the command line, on the same Python API.

Every page has a stable address, works without JavaScript, loads nothing from elsewhere, and is JSON for who asks for that
(`Accept: application/json`).
"""
