"""Headers of packets: parsed, built, checksummed, reassembled."""
