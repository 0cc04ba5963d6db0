"""Loss terms as plain functions of tensors; the methods weigh them."""
