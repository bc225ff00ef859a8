package authz

// ScopeOf is scopeOf.
var ScopeOf = scopeOf
