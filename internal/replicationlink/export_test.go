package replicationlink

// MaxPending is how many may be without a certificate at a time.
const MaxPending = maxPending

// Reasons are all for which a connection is refused.
func Reasons() (all []string) {
	for _, r := range refusals {
		all = append(all, r.reason)
	}
	return all
}
