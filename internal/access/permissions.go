// Package access says who may do what: permissions, the roles that have them, the places where a role is bound to a token, and the
// tokens themselves. The names are those of the managed service's IAM; what Sealane has beside it has names of the same form.
//
// Guaranteed:
//   - A token is random, known to whoever made it only, and stored as a SHA-256. Nobody can read it back, from the records either.
//   - A revoked or expired token lets nobody in from that moment on. Afterwards it can be told from a token that never was.
//   - A token can't give more than its maker has, neither more permissions, nor in more places, nor for longer.
//   - Looking a token up reads no file: a full or broken disk locks nobody out.
//
// Not guaranteed: that the time at which a token was last used survives a crash, or is exact; it is written down every ten minutes.
//
// One process at a time may use the records: the state folder's lock sees to that.
package access

import (
	"slices"
	"strings"
)

// Permission is what a call needs, such as "redis.instances.get": a service, a kind of resource, and a verb.
type Permission string

// The managed service's permissions.
const (
	InstancesCreate                Permission = "redis.instances.create"
	InstancesDelete                Permission = "redis.instances.delete"
	InstancesExport                Permission = "redis.instances.export"
	InstancesFailover              Permission = "redis.instances.failover"
	InstancesGet                   Permission = "redis.instances.get"
	InstancesGetAuthString         Permission = "redis.instances.getAuthString"
	InstancesImport                Permission = "redis.instances.import"
	InstancesList                  Permission = "redis.instances.list"
	InstancesRescheduleMaintenance Permission = "redis.instances.rescheduleMaintenance"
	InstancesUpdate                Permission = "redis.instances.update"
	InstancesUpdateAuth            Permission = "redis.instances.updateAuth"
	InstancesUpgrade               Permission = "redis.instances.upgrade"
	LocationsGet                   Permission = "redis.locations.get"
	LocationsList                  Permission = "redis.locations.list"
	OperationsCancel               Permission = "redis.operations.cancel"
	OperationsDelete               Permission = "redis.operations.delete"
	OperationsGet                  Permission = "redis.operations.get"
	OperationsList                 Permission = "redis.operations.list"
)

// Sealane's own.
const (
	BackendsGet            Permission = "redis.backends.get"
	BackendsUpdate         Permission = "redis.backends.update"         // where a backend is and how to log in
	CertificatesActivate   Permission = "redis.certificates.activate"   // let the next CA sign
	CertificatesCompromise Permission = "redis.certificates.compromise" // give a CA up for good
	CertificatesGet        Permission = "redis.certificates.get"
	CertificatesRetire     Permission = "redis.certificates.retire" // take the oldest CA out of the bundle
	CertificatesRotate     Permission = "redis.certificates.rotate" // make a new server certificate, or the next CA
	CertificatesUpdate     Permission = "redis.certificates.update" // the sampling of clients
	ClientsList            Permission = "redis.clients.list"
	DataPlanesGet          Permission = "redis.dataPlanes.get"
	DataPlanesUpdate       Permission = "redis.dataPlanes.update"
	EnginesGet             Permission = "redis.engines.get"
	EnginesRestart         Permission = "redis.engines.restart"
	PersistencesGet        Permission = "redis.persistences.get" // the schedule of snapshots, and what has become of them
	ReplicationsGet        Permission = "redis.replications.get" // the nodes, and the last failovers
	TokensCreate           Permission = "redis.tokens.create"
	TokensGet              Permission = "redis.tokens.get"
	TokensList             Permission = "redis.tokens.list"
	TokensRevoke           Permission = "redis.tokens.revoke"

	TransitEncryptionsGet    Permission = "redis.transitEncryptions.get"
	TransitEncryptionsUpdate Permission = "redis.transitEncryptions.update" // the way from plaintext to TLS, and back
)

// Permissions are all of them, ordered by name.
var Permissions = []Permission{
	BackendsGet, BackendsUpdate, CertificatesActivate, CertificatesCompromise, CertificatesGet, CertificatesRetire, CertificatesRotate, CertificatesUpdate,
	ClientsList, DataPlanesGet, DataPlanesUpdate, EnginesGet, EnginesRestart,
	InstancesCreate, InstancesDelete, InstancesExport, InstancesFailover, InstancesGet, InstancesGetAuthString, InstancesImport, InstancesList,
	InstancesRescheduleMaintenance, InstancesUpdate, InstancesUpdateAuth, InstancesUpgrade,
	LocationsGet, LocationsList, OperationsCancel, OperationsDelete, OperationsGet, OperationsList,
	PersistencesGet, ReplicationsGet, TokensCreate, TokensGet, TokensList, TokensRevoke, TransitEncryptionsGet, TransitEncryptionsUpdate,
}

func (p Permission) verb() string { return string(p[strings.LastIndexByte(string(p), '.')+1:]) }

// aboutTokens says whether the permission is about who may do what, which is an owner's business.
func (p Permission) aboutTokens() bool { return strings.HasPrefix(string(p), "redis.tokens.") }

// Role is the name of a set of permissions.
type Role string

// The roles of the managed service. DBConnectionUser is one that it has for connecting to clusters; here it is what a client or a
// sidecar needs, which is too much for a viewer and much less than an editor has.
const (
	Owner       Role = "roles/owner"
	Editor      Role = "roles/editor"
	Viewer      Role = "roles/viewer"
	RedisAdmin  Role = "roles/redis.admin"
	RedisEditor Role = "roles/redis.editor"
	RedisViewer Role = "roles/redis.viewer"

	DBConnectionUser Role = "roles/redis.dbConnectionUser"
)

// Roles are all of them, those with fewer permissions first.
var Roles = []Role{DBConnectionUser, RedisViewer, Viewer, RedisEditor, Editor, RedisAdmin, Owner}

// ParseRole reads a role, with or without "roles/".
func ParseRole(s string) (Role, bool) {
	r := Role("roles/" + strings.TrimPrefix(s, "roles/"))
	return r, slices.Contains(Roles, r)
}

// Has says whether the role has the permission.
func (r Role) Has(p Permission) bool {
	if !slices.Contains(Permissions, p) {
		return false
	}
	switch r {
	case Owner, RedisAdmin:
		return true
	case Editor:
		return !p.aboutTokens()
	case RedisEditor:
		// What makes an instance, ends it, points it elsewhere, or breaks its clients for good is not an editor's.
		return !p.aboutTokens() && p != InstancesCreate && p != InstancesDelete && p != CertificatesCompromise && p != BackendsUpdate
	case DBConnectionUser:
		return slices.Contains([]Permission{InstancesGet, InstancesGetAuthString, CertificatesGet, DataPlanesGet, TransitEncryptionsGet}, p)
	case Viewer, RedisViewer:
		return !p.aboutTokens() && (p.verb() == "get" || p.verb() == "list")
	}
	return false
}

// RolesWith are the roles that have a permission, those with fewer permissions first.
func RolesWith(p Permission) []Role {
	return slices.DeleteFunc(slices.Clone(Roles), func(r Role) bool { return !r.Has(p) })
}
