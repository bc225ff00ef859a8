package api

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/rest"
)

// effect is what a call does, as far as the log of calls is concerned.
type effect int

const (
	reads   effect = iota // it is not entered
	secret                // it reads a secret: it is entered, and a full disk doesn't stop it
	changes               // it changes something: it is entered before it is made, or not made
	// revokes is changes, but what it takes away is taken away on a full disk too: a stolen token must not live on because of that.
	revokes
)

// rule is what a call needs.
type rule struct {
	permission access.Permission
	// field is the field of the request that names the resource, such as "instance.name", and kind says what is named. "": none does, so
	// the method itself checks what the caller may.
	field string
	kind  resourceKind
	// within lets everybody in who has the permission anywhere below the resource: the method itself shows, or does, no more than May
	// allows.
	within bool
	effect effect
	// also are further permissions on the same resource that the request's content needs.
	also func(request proto.Message) []access.Permission
	// id is the field with the id of what a call makes in the resource; it is for the log of calls.
	id string
}

// resourceKind is what kind of resource a request names.
type resourceKind int

const (
	instanceResource  resourceKind = iota // an instance, or what belongs to one, such as its data plane
	locationResource                      // a location, or with "-" all of a project's
	projectResource                       // a project
	operationResource                     // an operation
)

// rules has a row for each method. A method without one is refused, and TestEveryMethodHasAPermission fails.
var rules = withBeta(map[string]rule{
	redisV1 + "ListInstances":         {permission: access.InstancesList, field: "parent", kind: locationResource, within: true},
	redisV1 + "GetInstance":           {permission: access.InstancesGet, field: "name"},
	redisV1 + "GetInstanceAuthString": {permission: access.InstancesGetAuthString, field: "name", effect: secret},
	redisV1 + "CreateInstance":        {permission: access.InstancesCreate, field: "parent", kind: locationResource, effect: changes, also: authOfCreate, id: "instance_id"},
	redisV1 + "UpdateInstance":        {permission: access.InstancesUpdate, field: "instance.name", effect: changes, also: authOfUpdate},
	redisV1 + "UpgradeInstance":       {permission: access.InstancesUpgrade, field: "name", effect: changes},
	redisV1 + "ImportInstance":        {permission: access.InstancesImport, field: "name", effect: changes},
	redisV1 + "ExportInstance":        {permission: access.InstancesExport, field: "name", effect: changes},
	redisV1 + "FailoverInstance":      {permission: access.InstancesFailover, field: "name", effect: changes},
	redisV1 + "DeleteInstance":        {permission: access.InstancesDelete, field: "name", effect: changes},
	redisV1 + "RescheduleMaintenance": {permission: access.InstancesRescheduleMaintenance, field: "name", effect: changes},

	"google.longrunning.Operations/ListOperations":  {permission: access.OperationsList, field: "name", kind: locationResource, within: true},
	"google.longrunning.Operations/GetOperation":    {permission: access.OperationsGet, field: "name", kind: operationResource, within: true},
	"google.longrunning.Operations/WaitOperation":   {permission: access.OperationsGet, field: "name", kind: operationResource, within: true},
	"google.longrunning.Operations/CancelOperation": {permission: access.OperationsCancel, field: "name", kind: operationResource, within: true, effect: changes},
	"google.longrunning.Operations/DeleteOperation": {permission: access.OperationsDelete, field: "name", kind: operationResource, within: true, effect: changes},
	"google.cloud.location.Locations/ListLocations": {permission: access.LocationsList, field: "name", kind: projectResource, within: true},
	"google.cloud.location.Locations/GetLocation":   {permission: access.LocationsGet, field: "name", kind: locationResource, within: true},

	"sealane.v1.DataPlanes/GetDataPlane":                 {permission: access.DataPlanesGet, field: "name"},
	"sealane.v1.DataPlanes/UpdateDataPlane":              {permission: access.DataPlanesUpdate, field: "data_plane.name", effect: changes},
	"sealane.v1.Engines/GetEngine":                       {permission: access.EnginesGet, field: "name"},
	"sealane.v1.Engines/RestartEngine":                   {permission: access.EnginesRestart, field: "name", effect: changes},
	"sealane.v1.AuthStrings/RotateAuthString":            {permission: access.InstancesUpdateAuth, field: "name", effect: changes},
	"sealane.v1.Certificates/GetCertificates":            {permission: access.CertificatesGet, field: "name"},
	"sealane.v1.Certificates/ListClients":                {permission: access.ClientsList, field: "name"},
	"sealane.v1.Certificates/RotateCa":                   {permission: access.CertificatesRotate, field: "name", effect: changes},
	"sealane.v1.Certificates/RotateLeaf":                 {permission: access.CertificatesRotate, field: "name", effect: changes},
	"sealane.v1.Certificates/ActivateCa":                 {permission: access.CertificatesActivate, field: "name", effect: changes},
	"sealane.v1.Certificates/RetireCa":                   {permission: access.CertificatesRetire, field: "name", effect: changes},
	"sealane.v1.Certificates/CompromiseCa":               {permission: access.CertificatesCompromise, field: "name", effect: changes},
	"sealane.v1.Certificates/SetSampling":                {permission: access.CertificatesUpdate, field: "name", effect: changes},
	"sealane.v1.TransitEncryptions/GetTransitEncryption": {permission: access.TransitEncryptionsGet, field: "name"},
	"sealane.v1.TransitEncryptions/ListPlaintextClients": {permission: access.ClientsList, field: "name"},
	"sealane.v1.TransitEncryptions/PreferTls":            {permission: access.TransitEncryptionsUpdate, field: "name", effect: changes},
	"sealane.v1.TransitEncryptions/EnforceTls":           {permission: access.TransitEncryptionsUpdate, field: "name", effect: changes},
	"sealane.v1.TransitEncryptions/RollbackTls":          {permission: access.TransitEncryptionsUpdate, field: "name", effect: changes},
	"sealane.v1.TransitEncryptions/DisableTls":           {permission: access.TransitEncryptionsUpdate, field: "name", effect: changes},
	"sealane.v1.Tokens/CreateToken":                      {permission: access.TokensCreate, within: true, effect: changes},
	"sealane.v1.Tokens/GetToken":                         {permission: access.TokensGet, within: true},
	"sealane.v1.Tokens/ListTokens":                       {permission: access.TokensList, within: true},
	"sealane.v1.Tokens/RevokeToken":                      {permission: access.TokensRevoke, within: true, effect: revokes},
	"sealane.v1.Persistences/GetPersistence":             {permission: access.PersistencesGet, field: "name"},
	"sealane.v1.Persistences/ListSnapshots":              {permission: access.PersistencesGet, field: "parent"},
})

const redisV1 = "google.cloud.redis.v1.CloudRedis/"

// withBeta adds v1beta1, which has the same methods.
func withBeta(rules map[string]rule) map[string]rule {
	for method, r := range rules {
		if name, ok := strings.CutPrefix(method, redisV1); ok {
			rules["google.cloud.redis.v1beta1.CloudRedis/"+name] = r
		}
	}
	return rules
}

// authOfUpdate is for an update that switches AUTH on or off, which lets clients in or out.
func authOfUpdate(request proto.Message) []access.Permission {
	r := request.ProtoReflect()
	mask := r.Get(r.Descriptor().Fields().ByName("update_mask")).Message()
	paths := mask.Get(mask.Descriptor().Fields().ByName("paths")).List()
	for n := range paths.Len() {
		if path := rest.SnakeCase(paths.Get(n).String()); path == "auth_enabled" || path == "*" {
			return []access.Permission{access.InstancesUpdateAuth}
		}
	}
	return nil
}

// authOfCreate is for a create with AUTH.
func authOfCreate(request proto.Message) []access.Permission {
	r := request.ProtoReflect()
	in := r.Get(r.Descriptor().Fields().ByName("instance")).Message()
	if in.Get(in.Descriptor().Fields().ByName("auth_enabled")).Bool() {
		return []access.Permission{access.InstancesUpdateAuth}
	}
	return nil
}

// text is a string field of a request, by a path such as "instance.name".
func text(request proto.Message, path string) string {
	m := request.ProtoReflect()
	parts := strings.Split(path, ".")
	for n, part := range parts {
		field := m.Descriptor().Fields().ByName(protoreflect.Name(part))
		if field == nil {
			return ""
		}
		if n == len(parts)-1 {
			return m.Get(field).String()
		}
		m = m.Get(field).Message()
	}
	return ""
}

// scopeOf is where the resource of that name is; not ok for what is not the name of one, which the method will refuse. It must not
// take for one instance what the method takes for another: it cuts the name at each slash, as package instance does.
func scopeOf(kind resourceKind, name string) (access.Scope, bool) {
	parts := strings.Split(name, "/")
	length := map[resourceKind]int{instanceResource: 6, locationResource: 4, projectResource: 2, operationResource: 4}[kind]
	if len(parts) < length {
		return access.Scope{}, false
	}
	rest := parts[length:]
	switch kind {
	case instanceResource: // alone, or what belongs to it: …/instances/I/dataPlane
		if len(rest) > 1 {
			return access.Scope{}, false
		}
	case operationResource:
		if len(rest) != 2 || rest[0] != "operations" {
			return access.Scope{}, false
		}
	default: // ListOperations takes …/operations too
		if len(rest) > 0 && !slices.Equal(rest, []string{"operations"}) {
			return access.Scope{}, false
		}
		if kind == locationResource && parts[3] == "-" {
			length = 2
			if parts[2] != "locations" {
				return access.Scope{}, false
			}
		}
	}
	scope, err := access.ParseScope(strings.Join(parts[:length], "/"))
	return scope, err == nil
}
