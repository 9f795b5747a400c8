"""placeholder"""
from loractl.cli.app import new_app,Command
app=new_app("x")
@app.command("doctor",cls=Command)
def doctor()->None:
    """x."""
