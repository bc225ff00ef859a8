//go:build !race

package netloop

const underRace = false
