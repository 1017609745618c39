# Takes the place of the C programs of the same names. What was tried: packaging/README.md.
#
#   make sdist && nix-build -E '(import <nixpkgs> { }).callPackage ./packaging/nix/package.nix { }'
{
  lib,
  python3Packages,
  stdenv,
}:

python3Packages.buildPythonApplication rec {
  pname = "passt-py";
  version = "0.2.0";
  pyproject = true;

  src = ../../dist + "/passt-${version}.tar.gz";

  build-system = with python3Packages; [
    cython
    setuptools
  ];
  dependencies = [ python3Packages.h11 ];

  # The programs are compiled launchers: each starts the interpreter that it was built with, isolated from the
  # caller's variables, and finds the package beside itself. A script around them would undo that, and nothing
  # else would find h11.
  dontWrapPythonPrograms = true;
  postInstall = ''
    ln -s ${python3Packages.h11}/${python3Packages.python.sitePackages}/h11 \
      $out/${python3Packages.python.sitePackages}/h11
  '';

  # The tests make network namespaces.
  doCheck = false;
  doInstallCheck = true;
  installCheckPhase = ''
    for program in pasta passt qrap pesto passtctl; do
      $out/bin/$program --version | grep -qx "$program ${version}"
    done
  '';

  meta = {
    description = "Unprivileged user-mode networking for virtual machines and network namespaces";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
    mainProgram = "pasta";
    broken = !stdenv.hostPlatform.isLinux;
  };
}
