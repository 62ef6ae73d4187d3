"""NVIDIA Triton as the engine: repositories from bundles, the server's process, a client, the Python-backend models."""
