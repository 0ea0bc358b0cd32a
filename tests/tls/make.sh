#!/bin/sh
# Makes the certificates of the unit tests anew. They are good for a century; the end-to-end tests make their own.
set -eu
cd "$(dirname "$0")"
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
# NAME SUBJECT KEY EXTENSIONS [MORE...]: signed by the CA.
sign() {
    name=$1 subject=$2 key=$3 extensions=$4
    shift 4
    openssl req -new -key "$key" -subj "$subject" -out request.csr
    printf '%s\n' "$extensions" > extensions.cnf
    openssl x509 -req -in request.csr -CA ca.pem -CAkey ca.key -extfile extensions.cnf -out "$name" "$@" 2>/dev/null
}
key ca.key
openssl req -x509 -new -key ca.key -subj "/CN=wsgate test CA" -days 36500 -out ca.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
key a.key
cp a.key a-copy.key
names="subjectAltName=DNS:a.example,DNS:*.a.example,IP:127.0.0.1"
sign a.pem "/CN=a.example" a.key "$names" -days 36500
sign a-renewed.pem "/CN=a.example" a.key "$names" -days 36500
# Only `openssl ca` takes dates.
mkdir -p new
: > new/index
openssl req -new -key a.key -subj /CN=a.example -out request.csr
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=new/index\nnew_certs_dir=new\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n' > ca.cnf
printf '%s\n' "$names" > extensions.cnf
openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in request.csr -extfile extensions.cnf -notext \
    -startdate 20200101000000Z -enddate 20200201000000Z -out a-expired.pem 2>/dev/null
# Each its own authority, as a service makes one for itself; the second has run out.
key self.key
openssl req -x509 -new -key self.key -subj "/CN=self.example" -days 36500 -out self.pem \
    -addext basicConstraints=critical,CA:TRUE -addext subjectAltName=DNS:self.example
openssl req -new -key self.key -subj "/CN=self.example" -out request.csr
printf 'basicConstraints=critical,CA:TRUE\nsubjectAltName=DNS:self.example\n' > extensions.cnf
openssl ca -batch -config ca.cnf -selfsign -keyfile self.key -in request.csr -extfile extensions.cnf -notext \
    -startdate 20200101000000Z -enddate 20200201000000Z -out self-expired.pem 2>/dev/null
rm -rf new ca.cnf
key b.key
sign b.pem "/CN=b.example" b.key "subjectAltName=DNS:b.example" -days 36500
key client.key
sign client.pem "/O=Example, Inc./CN=device-7" client.key "extendedKeyUsage=clientAuth" -days 36500
head -3 a.pem > cut.pem
printf 'not a certificate\n' > broken.pem
rm -f ca.srl request.csr extensions.cnf ca.key
