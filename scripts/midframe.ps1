# Run midframe from a checkout on Windows: set up .venv on first use, offer optional packages when a command needs them, pass the arguments on.
$ErrorActionPreference = "Stop"
$root = Split-Path -Parent $PSScriptRoot
$venv = Join-Path $root ".venv"
$python = Join-Path $venv "Scripts/python.exe"
$constraints = Join-Path $root "constraints.txt"
$stamp = Join-Path $venv ".midframe-installed"

function Install-Midframe([string]$extra) {
    if (-not (Test-Path $python)) {
        $launcher = if ($env:PYTHON) { $env:PYTHON } else { "python" }
        & $launcher -c "import sys; sys.exit(sys.version_info < (3, 11))"
        if ($LASTEXITCODE) { throw "midframe needs Python 3.11 or newer (set PYTHON to its path)" }
        & $launcher -m venv $venv
    }
    $target = if ($extra) { "$root[$extra]" } else { $root }
    & $python -m pip install --quiet --disable-pip-version-check --constraint $constraints $target
    if ($LASTEXITCODE) { throw "midframe could not be installed; see the lines above" }
    New-Item -ItemType File -Force $stamp | Out-Null
}

function Test-Module([string]$name) {
    & $python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$name') is None)"
    return $LASTEXITCODE -eq 0
}

# The package is a copy of the checkout: install it again when a source has changed.
$sources = (Join-Path $root "src"), (Join-Path $root "pyproject.toml"), (Join-Path $root "CMakeLists.txt"), $constraints
$changed = (Get-ChildItem -Recurse -File $sources | Measure-Object -Property LastWriteTimeUtc -Maximum).Maximum
if (-not (Test-Path $stamp) -or $changed -gt (Get-Item $stamp).LastWriteTimeUtc) { Install-Midframe "" }
$asks = [Environment]::UserInteractive -and -not [Console]::IsInputRedirected
if ($asks -and $args.Count -and $args[0] -eq "serve" -and -not (Test-Module "fastapi")) {
    if ((Read-Host "midframe: the web page needs further packages. Install them into .venv? [Y/n]") -notmatch "^[nN]") { Install-Midframe "web" }
}
& $python -m midframe @args
exit $LASTEXITCODE
