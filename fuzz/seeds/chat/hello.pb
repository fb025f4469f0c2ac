

a.b.cphone