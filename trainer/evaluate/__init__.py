"""`lposekit evaluate`: draws clips for the pairs of a protocol, and judges them, or those of another system."""
