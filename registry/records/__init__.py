"""Records as typed values: references, manifests and deposits, and who may read or change what."""
