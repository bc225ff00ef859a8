//go:build race

package relay_test

// underRace: sync.Pool then drops some of what it is given, on purpose.
const underRace = true
