package api

// MaxUnauthenticated is for tests.
const MaxUnauthenticated = maxUnauthenticated
