"""TCP: the translator between the guest's connections and our sockets."""
