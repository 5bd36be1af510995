"""The runner: runbooks executed headless, and the papermill engine with its kernel."""
