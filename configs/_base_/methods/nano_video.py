# Settings of every method on the nano hosts with clips: those of the other tasks, and the methods that look from frame
# to frame. DropPath of whole places is left out on maps of 4 x 4.
_base_ = ["./nano.py"]
methods = dict(
    st_adapter=dict(type="ST-Adapter", where="both"),
    aim=dict(type="AIM", drop_path=0.0),
)
