"""The forwarder of --dns-forward: a process that answers the guest's questions about names."""
