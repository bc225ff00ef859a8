package replicationlink

// MaxPending is how many may be without a certificate at a time.
const MaxPending = maxPending
