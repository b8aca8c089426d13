"""How a stage is cached, retried, limited, mapped and shown; no arithmetic."""
