"""UDP: the translator between the guest's datagrams and our sockets."""
