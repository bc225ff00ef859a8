package engine

var (
	InstallHint  = installHint
	ParseVersion = parseVersion
	Render       = render
)

const MaxLog = maxLog

// Call runs one command as the control plane's user.
var Call = (*Engine).call
