package backend

var ReadInfo = readInfo
