"""The only code that imports vLLM: its entry point, the seams it uses, and the engine behind the gateway's port."""
