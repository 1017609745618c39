"""Links to the guest: tap, stream."""
