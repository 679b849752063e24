# Words for scenarios with a TLS origin; sourced after lib.sh.

# certificates HOST: in /etc/pki, of one key and each its own authority: good.pem, old.pem, early.pem, other-name.pem; and
# stranger.pem with a key of its own. cert.pem is the good one.
certificates() {
  on "$1" sh -ec '
    mkdir -p /etc/pki && cd /etc/pki && : > index.txt && echo 01 > serial
    # make NAME KEY HOST FROM TO
    make() {
      printf "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\n" > ca.cnf
      printf "default_md = sha256\npolicy = any\nx509_extensions = ext\nunique_subject = no\n" >> ca.cnf
      printf "[any]\ncommonName = supplied\n[ext]\nsubjectAltName = DNS:%s\nbasicConstraints = CA:TRUE\n" "$3" >> ca.cnf
      openssl req -new -key "$2" -out req.pem -subj "/CN=$3"
      openssl ca -batch -config ca.cnf -selfsign -keyfile "$2" -in req.pem -out "$1" -notext -startdate "$4" -enddate "$5"
    }
    {
      for key in key strange; do openssl genrsa -out $key.pem 2048; done
      make good.pem key.pem app1 20240101000000Z 20400101000000Z
      make old.pem key.pem app1 20240101000000Z 20250101000000Z
      make early.pem key.pem app1 20380101000000Z 20400101000000Z
      make other-name.pem key.pem elsewhere 20240101000000Z 20400101000000Z
      make stranger.pem strange.pem app1 20240101000000Z 20400101000000Z
    } 2> /dev/null
    cp good.pem cert.pem && cp key.pem cert.key
  '
}

# tls_pair [LINES]: nginx on app1 with the certificate on port 8443, and nginx on gw that verifies it, with further LINES in its
# location.
tls_pair() {
  certificates app1
  put app1 /etc/nginx/conf.d/site.conf << 'CONF'
server { listen 8443 ssl default_server; server_name app1;
  ssl_certificate /etc/pki/cert.pem; ssl_certificate_key /etc/pki/cert.key;
  location / { return 200 "ok\n"; } }
CONF
  on app1 systemctl start nginx
  on app1 sh -c 'cd /etc/pki && cat good.pem old.pem early.pem other-name.pem' | put gw /etc/nginx/trusted.pem
  nginx gw << CONF
server { listen 80 default_server; location / {
  proxy_pass https://app1:8443; proxy_ssl_verify on; proxy_ssl_trusted_certificate /etc/nginx/trusted.pem;
  proxy_ssl_session_reuse off; ${1:-}
} }
CONF
  answers gw http://gw/
}
