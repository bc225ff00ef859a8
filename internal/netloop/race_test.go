//go:build race

package netloop

// underRace: sync.Pool then drops some of what it is given, on purpose.
const underRace = true
