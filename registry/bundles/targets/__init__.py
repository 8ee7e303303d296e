"""What an adapter can be packed as: one module for each target, named as `materialize --target` names it."""
