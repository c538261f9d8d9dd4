"""Service discovery: which instances a service has, from Consul or the DNS, over reloads, restarts and failures."""
