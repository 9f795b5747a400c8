"""placeholder"""
from loractl.cli.app import new_app,Command
app=new_app("x")
@app.command("serve",cls=Command)
def serve()->None:
    """x."""
