"""Health: rows in which workers, relays and beats say that they live, and the three probes that read them."""
