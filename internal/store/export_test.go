package store

// CheckPages is for tests.
var CheckPages = checkPages
